"""What each stage does to a run directory: one module per stage, with a function of its name.

`pipeline` knows their order, and which one is due. It imports only the one that it runs, as embedding needs no PyTorch
unless the encoder does.
"""
