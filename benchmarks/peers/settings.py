"""Settings of RecBole that its serving and its training share; runs in RecBole's environment."""


def common_settings(folder: str) -> dict[str, object]:
    """What differs from RecBole's own settings, for a log of users, items and times below `folder`."""
    return {
        "data_path": folder,
        "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
        "train_neg_sample_args": None,
        "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user", "mode": "full"},
        "n_layers": 2,
        "n_heads": 2,
        "hidden_size": 64,
        "inner_size": 256,
        "loss_type": "CE",
        "use_gpu": False,
        "show_progress": False,
    }


def feature_settings(settings: dict[str, object]) -> dict[str, object]:
    """The same for SASRecF and FDSA, which read the column `features` of the items.

    They pool the values of an item by their mean, where RecBole's own SASRecF would take the sum.
    """
    columns = {**settings["load_col"], "item": ["item_id", "features"]}  # type: ignore[dict-item]
    return settings | {"load_col": columns, "selected_features": ["features"], "pooling_mode": "mean"}
