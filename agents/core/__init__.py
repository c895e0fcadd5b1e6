"""What everything else speaks: data types, chat templates, errors, processes, files and tables."""
