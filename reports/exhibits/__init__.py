"""What a report can show: figures and tables, each made from the tables of runs."""
