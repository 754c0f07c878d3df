"""Training by PyTorch Lightning: task, data modules, callbacks."""
