//! The standard metrics of a process, under the names that Prometheus client libraries use. They
//! are read from `/proc/self` only. The system's `/proc/stat`, from which libraries compute the
//! start time, is hidden from a sandboxed service.

use std::fs;
use std::time::Duration;

use chrono::{DateTime, Utc};
use prometheus::core::Collector as _;
use prometheus::proto::MetricFamily;
use prometheus::{Counter, IntGauge};

/// Returns the metrics of this process. Leaves out those that cannot be read.
pub(super) fn families(started_at: DateTime<Utc>) -> Vec<MetricFamily> {
    let mut families = Vec::new();
    let mut add = |name: &str, help: &str, value: Option<i64>| {
        let gauge = IntGauge::new(name, help).expect("names of metrics are valid");
        if let Some(value) = value {
            gauge.set(value);
            families.extend(gauge.collect());
        }
    };
    add(
        "process_start_time_seconds",
        "When the process started, in unix seconds.",
        Some(started_at.timestamp()),
    );
    add("process_open_fds", "Number of open file descriptors.", open_files());
    add("process_max_fds", "Maximum number of open file descriptors.", max_open_files());
    if let Some(stat) = fs::read_to_string("/proc/self/stat").ok().as_deref().and_then(Stat::read) {
        add("process_resident_memory_bytes", "Resident memory in bytes.", Some(stat.resident_bytes));
        add("process_virtual_memory_bytes", "Virtual memory in bytes.", Some(stat.virtual_bytes));
        add("process_threads", "Number of threads.", Some(stat.threads));
        let help = "User and system CPU time spent in seconds.";
        let cpu = Counter::new("process_cpu_seconds_total", help).expect("names of metrics are valid");
        cpu.inc_by(stat.cpu.as_secs_f64());
        families.extend(cpu.collect());
    }
    families
}

fn open_files() -> Option<i64> {
    let files = fs::read_dir("/proc/self/fd").ok()?.count();
    // Reading the folder opens a file descriptor, which is not counted.
    i64::try_from(files).ok().map(|files| files - 1)
}

fn max_open_files() -> Option<i64> {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current?;
    i64::try_from(limit).ok()
}

struct Stat {
    cpu: Duration,
    threads: i64,
    virtual_bytes: i64,
    resident_bytes: i64,
}

impl Stat {
    /// Parses a line of proc_pid_stat(5). The second field is the program's name in parentheses,
    /// which can contain any characters.
    fn read(line: &str) -> Option<Self> {
        let (_, fields) = line.rsplit_once(')')?;
        let fields: Vec<&str> = fields.split_whitespace().collect();
        // Fields are numbered from 1, and the first two have been removed.
        let number = |field: usize| fields.get(field - 3)?.parse::<i64>().ok();
        let ticks = u64::try_from(number(14)? + number(15)?).ok()?;
        let page = i64::try_from(rustix::param::page_size()).ok()?;
        Some(Self {
            cpu: Duration::from_millis(ticks * 1000 / rustix::param::clock_ticks_per_second()),
            threads: number(20)?,
            virtual_bytes: number(23)?,
            resident_bytes: number(24)? * page,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_of_proc_is_parsed_whatever_the_name_of_the_program() {
        let line = "7 (a) b (c) S 1 7 7 0 -1 4194304 900 0 0 0 150 50 0 0 20 0 12 0 5000 104857600 2560 \
             184 1 2";
        let stat = Stat::read(line).unwrap();
        let ticks = rustix::param::clock_ticks_per_second();
        assert_eq!(stat.cpu, Duration::from_millis(200_000 / ticks));
        assert_eq!((stat.threads, stat.virtual_bytes), (12, 104_857_600));
        assert_eq!(stat.resident_bytes, 2560 * i64::try_from(rustix::param::page_size()).unwrap());
        assert!(Stat::read("7 (a) S 1").is_none());
    }

    #[test]
    fn all_metrics_of_this_process_can_be_read() {
        let started_at = "2026-03-01T08:00:00Z".parse().unwrap();
        let families = families(started_at);
        let mut names: Vec<&str> = families.iter().map(MetricFamily::name).collect();
        names.sort_unstable();
        assert_eq!(
            names,
            [
                "process_cpu_seconds_total",
                "process_max_fds",
                "process_open_fds",
                "process_resident_memory_bytes",
                "process_start_time_seconds",
                "process_threads",
                "process_virtual_memory_bytes",
            ]
        );
        for family in &families {
            let metric = &family.get_metric()[0];
            let is_counter = family.name() == "process_cpu_seconds_total";
            assert!(is_counter || metric.get_gauge().get_value() > 0.0, "{}", family.name());
        }
    }
}
