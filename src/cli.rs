//! Assembles all of it: one file per subcommand.
