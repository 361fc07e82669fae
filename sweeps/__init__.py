"""Many trials: Ray Tune trainables over easrec, MLflow recording, Pareto fronts."""
