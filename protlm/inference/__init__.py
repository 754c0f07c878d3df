"""What a trained model is for. Plain torch, no Lightning."""
