"""results/report.html: all tables and curves on one page."""
