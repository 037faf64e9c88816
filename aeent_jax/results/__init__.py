"""From finished runs to tables and reports."""
