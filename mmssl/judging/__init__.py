"""`mmssl evaluate`: a model on a data set, and several models on several sets as one suite."""
