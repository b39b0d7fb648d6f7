"""Layer families: each file holds layers that belong together, importer and exporter facing each other."""
