//! Measures this process, and the CPU time of a database server's processes.

use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

/// The measurements of a phase by its own process, and of its database server in the same time.
#[derive(Clone, Copy, Debug, Default, serde::Deserialize, serde::Serialize)]
pub(crate) struct Figures {
    pub(crate) groups: u64,
    #[serde(default)]
    pub(crate) requests: u64,
    pub(crate) wall: f64,
    pub(crate) cpu: f64,
    /// Bytes that this process wrote to disk.
    pub(crate) written: u64,
    pub(crate) rss: u64,
    #[serde(default)]
    pub(crate) server_cpu: f64,
    /// Bytes of write-ahead log that PostgreSQL wrote.
    #[serde(default)]
    pub(crate) wal: u64,
}

impl Figures {
    pub(crate) fn groups_per_second(&self) -> f64 {
        self.groups as f64 / self.wall
    }

    /// Returns the CPU seconds of the process and its server.
    pub(crate) fn total_cpu(&self) -> f64 {
        self.cpu + self.server_cpu
    }
}

/// Measures a phase.
pub(crate) struct Stopwatch {
    started: Instant,
    cpu: Duration,
}

impl Stopwatch {
    pub(crate) fn start() -> Self {
        Self { started: Instant::now(), cpu: own_cpu() }
    }

    /// Prints the measurements as JSON, for the parent process.
    pub(crate) fn print(&self, groups: u64, requests: u64) {
        let figures = Figures {
            groups,
            requests,
            wall: self.started.elapsed().as_secs_f64(),
            cpu: own_cpu().saturating_sub(self.cpu).as_secs_f64(),
            written: field("/proc/self/io", "write_bytes"),
            rss: field("/proc/self/status", "VmHWM") * 1024,
            ..Figures::default()
        };
        println!("{}", serde_json::to_string(&figures).unwrap());
    }
}

fn own_cpu() -> Duration {
    clock_gettime(ClockId::ProcessCPUTime).try_into().unwrap()
}

fn field(file: &str, name: &str) -> u64 {
    let text = std::fs::read_to_string(file).unwrap();
    let line = text.lines().find(|line| line.starts_with(name)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Returns the CPU seconds of a process, of its running children, and of its children that have
/// ended.
pub(crate) fn cpu_with_children(parent: u32) -> f64 {
    let mut ticks = 0;
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else { continue };
        let Some((head, fields)) = stat.rsplit_once(") ") else { continue };
        let pid: u32 = head.split(' ').next().unwrap().parse().unwrap();
        let fields: Vec<u64> = fields.split(' ').map(|field| field.parse().unwrap_or(0)).collect();
        // Indexes of the fields after the name: 1 is the parent, 11 and 12 are user and system
        // time, 13 and 14 those of children that have ended.
        if pid == parent {
            ticks += fields[11..=14].iter().sum::<u64>();
        } else if fields[1] == u64::from(parent) {
            ticks += fields[11..=12].iter().sum::<u64>();
        }
    }
    // Linux counts these times in hundredths of a second.
    ticks as f64 / 100.0
}
