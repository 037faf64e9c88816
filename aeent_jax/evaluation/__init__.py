"""From a trained run to scores, metrics, diagnostics and baselines."""
