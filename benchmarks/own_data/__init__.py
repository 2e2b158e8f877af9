"""A newcomer's six data sets, from files in foreign forms to steps of training."""
