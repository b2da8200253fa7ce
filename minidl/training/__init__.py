"""What a training is made of: its settings, loss, learning rate, and the average of its weights.

`minidl.train` has the loop.
"""
