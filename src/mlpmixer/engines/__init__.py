"""Ways to run a finished model: from bytes of images to answers, on the hardware that is there.

`start` makes an engine; `fastest` finds out which one to make. `trainable` is the odd one out: a way to train.
"""
