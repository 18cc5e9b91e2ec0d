"""Trackers: MLflow, TensorBoard, Weights & Biases or one's own, which follow a run and never stand in its way.

The driver starts a process for each tracker (`processes`). It follows the files of the run (`feed`) and sends what is
new (`sending`). So whatever a tracker's library does, hang, fail, print or crash, the run does not notice. What was
sent stands in the run's folder `tracking/`; everything else is sent later.
"""
