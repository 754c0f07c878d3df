"""From exact attention to linear: a student is trained to compute what its teacher computes."""
