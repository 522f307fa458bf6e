//! Processor time and memory of a process, as the kernel counts them.

/// Processor seconds that a process has taken so far, all its threads together.
pub fn processor_seconds(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // Behind the name in parentheses, which may hold anything: utime and stime are fields 14 and 15, in hundredths.
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields).split_ascii_whitespace();
    let ticks: u64 = fields.skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    ticks as f64 / 100.0
}

/// A line of the process's status, such as `VmHWM:` (most ever resident), in MiB.
pub fn memory_mib(pid: u32, line: &str) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let found = status.lines().find_map(|it| it.strip_prefix(line)).unwrap_or_default();
    found.trim().trim_end_matches(" kB").parse::<f64>().map_or(0.0, |kib| kib / 1024.0)
}

/// Of the machine, over the last minute.
pub fn load_average() -> f64 {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().and_then(|text| text.parse().ok()).unwrap_or(0.0)
}

/// Of one run: processor seconds of the service, the server and the broker.
#[derive(Debug, Clone, Copy, Default)]
pub struct Usage {
    pub service: f64,
    pub server: f64,
    pub broker: f64,
}

impl Usage {
    pub fn of(service: Option<u32>, server: Option<u32>, broker: Option<u32>) -> Self {
        let seconds = |pid: Option<u32>| pid.map_or(0.0, processor_seconds);
        Self { service: seconds(service), server: seconds(server), broker: seconds(broker) }
    }

    pub fn sum(self) -> f64 {
        self.service + self.server + self.broker
    }

    pub fn since(self, before: Self) -> Self {
        Self {
            service: self.service - before.service,
            server: self.server - before.server,
            broker: self.broker - before.broker,
        }
    }
}
