"""Pictures of values along a protein: heat maps and sequence logos."""
