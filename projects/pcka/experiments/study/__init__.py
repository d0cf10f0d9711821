"""Studies: settings of a config, each tuned if asked for, trained over seeds and compared."""
