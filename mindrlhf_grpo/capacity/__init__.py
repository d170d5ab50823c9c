"""Whether a run fits: sizes of models known from their configuration, memory by phase, here or on machines that are not here."""
