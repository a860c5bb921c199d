"""What a lesson needs: `widgets` (explorers), `checks` (exercises), `lessons` (both for each),
`lab` (JupyterLab)."""
