"""What a lesson needs around the methods: `widgets` (explorers), `checks` (exercises), `lab` (JupyterLab, started)."""
