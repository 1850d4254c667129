"""Export models of Keras."""


def keras_model(): ...
