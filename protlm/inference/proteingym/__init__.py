"""Deep mutational scans: what a model and simple baselines make of them, as ProteinGym counts it."""
