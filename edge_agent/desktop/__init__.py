"""The program on a desktop: login, service, doctor, live view, idle policy."""
