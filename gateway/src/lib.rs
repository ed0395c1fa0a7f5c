//! The gateway: tunnels, placement, health, balancing, routes, listeners, admin and the command line.
