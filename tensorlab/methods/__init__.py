"""Methods: what is trained, sampled, searched, quantized or pruned by means of the formats."""
