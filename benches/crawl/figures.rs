//! What a process measured of itself, and what a server's processes used.

use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

/// What a phase measured of itself, and what its database server did meanwhile.
#[derive(Clone, Copy, Debug, Default, serde::Deserialize, serde::Serialize)]
pub(crate) struct Figures {
    pub(crate) groups: u64,
    #[serde(default)]
    pub(crate) requests: u64,
    pub(crate) wall: f64,
    pub(crate) cpu: f64,
    /// Bytes this process had written to disk.
    pub(crate) written: u64,
    pub(crate) rss: u64,
    #[serde(default)]
    pub(crate) server_cpu: f64,
    /// Bytes of write-ahead log, on PostgreSQL.
    #[serde(default)]
    pub(crate) wal: u64,
}

impl Figures {
    pub(crate) fn groups_a_second(&self) -> f64 {
        self.groups as f64 / self.wall
    }

    /// Of the process and of its server.
    pub(crate) fn whole_cpu(&self) -> f64 {
        self.cpu + self.server_cpu
    }
}

/// A phase under way.
pub(crate) struct Stopwatch {
    started: Instant,
    cpu: Duration,
}

impl Stopwatch {
    pub(crate) fn start() -> Self {
        Self { started: Instant::now(), cpu: own_cpu() }
    }

    /// Prints the figures for the process that started this one.
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

/// Seconds of CPU that a process, its children that live, and those that it has seen end have used.
pub(crate) fn cpu_of_family(parent: u32) -> f64 {
    let mut ticks = 0;
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else { continue };
        let Some((head, fields)) = stat.rsplit_once(") ") else { continue };
        let pid: u32 = head.split(' ').next().unwrap().parse().unwrap();
        let fields: Vec<u64> = fields.split(' ').map(|field| field.parse().unwrap_or(0)).collect();
        // The fields after the name: 1 the parent, 11 to 14 user and system time, own and of children that ended.
        if pid == parent {
            ticks += fields[11..=14].iter().sum::<u64>();
        } else if fields[1] == u64::from(parent) {
            ticks += fields[11..=12].iter().sum::<u64>();
        }
    }
    // Linux counts in hundredths of a second for every process.
    ticks as f64 / 100.0
}
