"""The lab: an AWS region on one Linux machine, whose instances are systemd-nspawn containers."""
