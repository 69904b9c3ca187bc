"""Models, by the options of conf/model."""
