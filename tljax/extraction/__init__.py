"""Feature extraction: the pretrained network as a fixed function of its input.

`features` extracts once, into the `cache`. What is fitted (logistic, ridge, neighbours,
nearest_mean, svm) and what is trained (linear, `probe`) is a
`Head`; `heads` has them by name. `head.join` makes one model of backbone and head, and
`saved` keeps it.
"""
