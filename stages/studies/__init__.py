"""Studies: questions answered by experiments on the pipeline's own target and explainer."""
