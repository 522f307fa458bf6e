//! The servers that are measured: which of them, and how each is started. The same for the whole service and for the sink alone.

use afterimage::demo::server::Flavour;

/// Durable commits, data in memory, no binary log.
pub const OPTIONS: [&str; 3] = ["--innodb-buffer-pool-size=2G", "--innodb-flush-log-at-trx-commit=1", "--skip-log-bin"];

/// What a server of this kind is started with: [`OPTIONS`], and logs so large that neither side waits for a checkpoint.
pub fn options(flavour: Flavour) -> Vec<&'static str> {
    let log = match flavour {
        Flavour::MySql => "--innodb-redo-log-capacity=2G",
        Flavour::MariaDb => "--innodb-log-file-size=2G",
    };
    OPTIONS.into_iter().chain([log]).collect()
}

/// Whether `SERVERS` names it, or nothing at all (make hands on those that nobody set as empty ones).
pub fn is_wanted(flavour: Flavour) -> bool {
    let name = match flavour {
        Flavour::MySql => "mysql",
        Flavour::MariaDb => "mariadb",
    };
    let wanted = std::env::var("SERVERS").unwrap_or_default();
    wanted.is_empty() || wanted.split(',').any(|wanted| wanted == name)
}
