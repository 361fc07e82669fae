"""A network in use: the folder it is shipped in, recommendations, constant-time updates of users' states."""

from easrec.serving.bundle import Bundle, load_bundle, save_bundle
from easrec.serving.recommender import Recommendations, Recommender
from easrec.serving.states import UserStates

__all__ = ["Bundle", "Recommendations", "Recommender", "UserStates", "load_bundle", "save_bundle"]
