"""What a model looks at: attention maps."""
