"""Methods: what is trained, sampled, searched, quantised or pruned by means of the formats."""
