"""Files are the truth: run directories, identity, status, metrics, and the MLflow mirror."""
