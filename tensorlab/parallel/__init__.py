"""Training on several processes: schedules and their cost as combinatorics, and the real thing by
`torch.distributed`."""
