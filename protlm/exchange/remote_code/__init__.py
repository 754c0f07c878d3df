"""Files that an exported model carries: transformers loads them, with copies of protlm/performer, without protlm."""
