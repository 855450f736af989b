"""Pure functions of features and predictions. They choose nothing and train nothing."""
