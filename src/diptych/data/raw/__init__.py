"""What dataset owners distribute, read in place: folders, archives, tables, JSON."""
