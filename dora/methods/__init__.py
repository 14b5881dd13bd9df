"""Methods: the base class, and one file a paper. conf/method/NAME.yaml says which class NAME is."""
