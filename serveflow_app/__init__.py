"""The application: settings, HTTP surface, command line."""
