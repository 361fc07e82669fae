"""easrec: elastic architecture search for sequential recommenders.

The data flow, module by module::

    data.interactions   a log of (user, item, timestamp)        -> Interactions
    data.sequences      leave-one-out split, training windows   -> SplitData
    nas.supernet        every candidate width and depth at once  (models.transformer, models.gates)
    nas.search          warm-up and bilevel search               -> SearchResult.architecture
    retrain             the derived network, trained by itself   -> RetrainResult.model
    evaluation.protocols, evaluation.profile                      -> accuracy, latency, memory
    nas.resources       FLOPs and parameters in closed form
"""

__version__ = "0.1.0"
