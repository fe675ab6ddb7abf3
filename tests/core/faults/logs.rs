//! Log lines about faults.

use harness::crawl::{Harness, group_types, reason_text};
use harness::crawl_tests;
use harness::log::capture_log;
use std::time::Duration;
use tim_group_sync::model::CrawlStatus;
use tim_group_sync::simulator::{At, Fault};
use tim_group_sync::tencent::usersig::SecretKey;

crawl_tests! {
    neither_the_key_nor_a_signature_is_ever_logged,
    an_outage_is_logged_when_it_begins_and_ends_and_its_errors_name_the_host,
}

async fn an_outage_is_logged_when_it_begins_and_ends_and_its_errors_name_the_host(mut harness: Harness) {
    let (log, _guard) = capture_log();
    harness.group_types = group_types(&["Public"]);
    harness.create("Public", "a b c d");
    harness.crawl().await;
    for fault in [Fault::Status(503), Fault::Reset] {
        harness.api.script(At::Every, fault);
        for _ in 0..2 {
            let report = harness.crawl().await;
            assert_eq!(report.status, CrawlStatus::Failed);
            assert!(reason_text(&report).contains("the API at 127.0.0.1"), "{report:?}");
        }
        harness.api.clear_faults();
        harness.crawl().await;
    }
    let text = log.text();
    let count = |level: &str, message: &str| {
        text.lines().filter(|line| line.contains(level) && line.contains(message)).count()
    };
    assert_eq!(count("WARN", "retrying: "), 2, "{text}");
    assert_eq!(count("INFO", "the API at 127.0.0.1 answers again, after "), 2, "{text}");
    assert!(count("DEBUG", "request failed again, retrying: ") > 2, "{text}");
}

async fn neither_the_key_nor_a_signature_is_ever_logged(mut harness: Harness) {
    let (log, _guard) = capture_log();
    let key = "0123456789abcdef".repeat(4);
    harness.credentials.secret_key = SecretKey::new(&key);
    harness.request_timeout = Duration::from_secs(1);
    harness.group_types = group_types(&["Public", "Private"]);
    harness.create("Public", "a b c d");
    let mut signing_times = Vec::new();
    for fault in [
        None,
        Some(Fault::ErrorCode(70001)),
        Some(Fault::ErrorCode(60021)),
        Some(Fault::Status(500)),
        Some(Fault::Redirect),
        Some(Fault::Reset),
        Some(Fault::Timeout),
        Some(Fault::TruncatedBody),
        Some(Fault::HtmlWith200),
        Some(Fault::EarlyEnd),
    ] {
        if let Some(fault) = fault {
            harness.fault_from_request(2, fault);
        }
        tracing::info!("{:?}", harness.crawler());
        let report = harness.crawl().await;
        signing_times.extend(report.started_at.timestamp()..=report.finished_at.timestamp());
        harness.api.clear_faults();
    }
    let log = log.text();
    for expected in ["crawl complete", "request failed, retrying", "DEBUG", "error 60021", "ERROR"] {
        assert!(log.contains(expected), "the log was not captured: no {expected:?}");
    }
    for secret in [key.as_str(), "usersig=", "eJyrVg", "eJw"] {
        assert!(!log.contains(secret), "{secret:?} was logged");
    }
    for time in signing_times {
        let signature = harness.signature(time);
        assert!(!log.contains(signature.expose()) && !log.contains(&signature.expose()[8..40]));
    }
}
