//! Whatever happens at the API and to the crawler: in the end the table is the truth, and nothing that stood was deleted.
//!
//! The model is the simulated app itself, the invariants of [`Harness::assert_invariants`] hold after every crawl, and
//! the histories are the same in every run. `PROPTEST_CASES=2000 cargo test --test faults histories` looks further;
//! `HISTORY_STEPS=20000 HISTORY_SEED=7 cargo test --test faults one_long_history` lives longer, and differently.

use harness::campaign;
use harness::crawl::{Engine, Harness, group_types, outcome};
use harness::crawl_tests;
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::{Config, RngSeed, TestRunner};
use tim_group_sync::model::CrawlId;
use tim_group_sync::simulator::{At, Call, Cursor, Fault, Listing, Order, Settings, SimulatedApp};
use tokio_util::sync::CancellationToken;

crawl_tests! {
    after_any_history_quiet_crawls_make_the_table_the_truth,
    after_any_history_of_lists_that_skip_groups_quiet_crawls_make_the_table_the_truth,
    after_any_history_groups_of_a_type_that_is_not_configured_are_known_too,
    after_any_history_with_hidden_groups_quiet_crawls_make_the_table_the_truth,
    after_any_history_without_questions_every_standing_group_is_live,
    one_long_history_ends_with_the_truth,
}

const IDS: [&str; 6] = ["a", "b", "c", "d", "e", "f"];
const TYPES: [&str; 3] = ["Public", "Private", "ChatRoom"];

/// What happens to one group.
#[derive(Clone, Copy, Debug)]
enum Change {
    Create(usize, usize),
    Dissolve(usize),
    Retype(usize, usize),
    Recreate(usize),
    /// From now on no list has the group, though it stands.
    Hide(usize),
}

/// What happens between and during crawls; requests are counted from 1 in each crawl.
#[derive(Clone, Debug)]
enum Step {
    Change(Change),
    Crawl,
    ForetoldCrawl,
    CrawlWhile(u64, Change),
    CrawlWithFault(u64, Fault, bool),
    /// All lists of the crawl have this fault.
    CrawlWithFaultyLists(Fault),
    /// The n-th question of the crawl has this fault, or that and all that follow.
    CrawlWithFaultyAnswer(u64, Fault, bool),
    /// From now on a stale list is one of the groups that stand now.
    Remember,
    Kill(u64),
    Cancel(u64),
    /// Two replicas at once.
    CrawlTwice,
    /// The clock is set, by so many hours.
    SetClock(i32),
    SetClockWhile(u64, i32),
    /// Whether every deletion waits for someone's approval from now on.
    Review(bool),
    /// Someone approves what the crawl before so many others withheld.
    Approve(usize),
    /// Someone undoes what the crawl before so many others deleted.
    Undelete(usize),
}

fn change(hiding: bool) -> impl Strategy<Value = Change> {
    let (id, group_type) = (0..IDS.len(), 0..TYPES.len());
    let hides = u32::from(hiding) * 2;
    prop_oneof![
        hides => id.clone().prop_map(Change::Hide),
        3 => (id.clone(), group_type.clone()).prop_map(|(id, of)| Change::Create(id, of)),
        2 => id.clone().prop_map(Change::Dissolve),
        1 => (id.clone(), group_type).prop_map(|(id, to)| Change::Retype(id, to)),
        1 => id.prop_map(Change::Recreate),
    ]
}

/// What an API may do wrong without telling an untruth that has to be believed.
fn fault() -> impl Strategy<Value = Fault> {
    prop::sample::select(vec![
        Fault::Status(500),
        Fault::Reset,
        Fault::TruncatedBody,
        Fault::NotJson,
        Fault::ErrorCode(10002),
        Fault::ErrorCode(10004),
        Fault::ErrorCode(10018),
        Fault::ErrorCode(60021),
        Fault::ErrorCode(70001),
        Fault::EarlyEnd,
        Fault::RepeatCursor,
        Fault::NoNext,
        Fault::EmptyPage,
        Fault::DuplicateIds,
        Fault::NoTotalCount,
        Fault::TotalCount(1000),
        Fault::ExtraIds(vec!["a\0".to_owned()]),
    ])
}

/// What a list may do wrong again and again, and be believed only if it cannot be asked about.
fn fault_of_lists() -> impl Strategy<Value = Fault> {
    prop::sample::select(vec![
        Fault::Stale,
        Fault::Partial(2),
        Fault::Partial(3),
        Fault::EmptyList,
        Fault::TotalCount(2),
        Fault::AppTotalCount,
        Fault::BrokenIds,
        Fault::ExtraIds(vec!["a".to_owned(), "ghost".to_owned()]),
    ])
}

/// What the controls of a question expose, or what says nothing about a group.
fn fault_of_answers() -> impl Strategy<Value = Fault> {
    prop::sample::select(vec![
        Fault::ErrorCode(10007),
        Fault::ErrorCode(10015),
        Fault::ErrorCode(60011),
        Fault::EveryGroup(0),
        Fault::EveryGroup(10010),
        Fault::EveryGroup(10015),
        Fault::FewerGroups,
        Fault::OtherOrder,
        Fault::UnknownCodes,
        Fault::SwappedCodes,
        Fault::NoGroupTypes,
        Fault::GroupCode("a".to_owned(), 10015),
        Fault::GroupCode("b".to_owned(), 10004),
    ])
}

/// Two days back, or forward beyond the life of a signature.
fn hours() -> impl Strategy<Value = i32> {
    -48..96i32
}

/// What a history is about besides groups that come and go.
#[derive(Clone, Copy, Debug)]
struct About {
    hiding: bool,
    /// Groups are asked about, and lists and answers may contradict each other.
    confirm: bool,
}

fn step(About { hiding, confirm }: About) -> impl Strategy<Value = Step> {
    let request = 1..9u64;
    prop_oneof![
        // Without questions such lists would have to be believed.
        2 => fault_of_lists()
            .prop_map(move |fault| if confirm { Step::CrawlWithFaultyLists(fault) } else { Step::Crawl }),
        2 => (1..4u64, fault_of_answers(), any::<bool>())
            .prop_map(|(nth, fault, lasting)| Step::CrawlWithFaultyAnswer(nth, fault, lasting)),
        1 => Just(Step::Remember),
        6 => change(hiding).prop_map(Step::Change),
        1 => Just(Step::Crawl),
        1 => Just(Step::ForetoldCrawl),
        2 => (request.clone(), change(hiding)).prop_map(|(n, change)| Step::CrawlWhile(n, change)),
        2 => (request.clone(), fault(), any::<bool>())
            .prop_map(|(n, fault, lasting)| Step::CrawlWithFault(n, fault, lasting)),
        1 => request.clone().prop_map(Step::Kill),
        1 => request.clone().prop_map(Step::Cancel),
        1 => Just(Step::CrawlTwice),
        1 => hours().prop_map(Step::SetClock),
        1 => (request, hours()).prop_map(|(n, hours)| Step::SetClockWhile(n, hours)),
        1 => any::<bool>().prop_map(Step::Review),
        1 => (0..4usize).prop_map(Step::Approve),
        1 => (0..4usize).prop_map(Step::Undelete),
    ]
}

impl Change {
    fn happen(self, api: &SimulatedApp) {
        match self {
            Self::Create(id, of) => api.create(TYPES[of], IDS[id]),
            Self::Dissolve(id) => {
                api.dissolve(IDS[id]);
            }
            Self::Retype(id, to) => {
                if api.truth().contains_key(IDS[id]) {
                    api.retype(IDS[id], TYPES[to]);
                }
            }
            Self::Hide(id) => api.hide(&[IDS[id]]),
            Self::Recreate(id) => {
                if let Some(of) = api.truth().get(IDS[id]) {
                    api.retype(IDS[id], of);
                }
            }
        }
    }
}

impl Step {
    async fn happen(self, harness: &mut Harness) {
        match self {
            Self::CrawlTwice => harness.crawl_by_two_replicas().await,
            Self::SetClock(hours) => harness.set_clock_by(hours),
            Self::SetClockWhile(n, hours) => {
                harness.set_clock_during_request(n, hours);
                harness.crawl().await;
            }
            Self::Review(review) => harness.guard.review = review,
            Self::Approve(back) => {
                if let Some(crawl) = nth(harness, "withheld > 0", back).await {
                    harness.approve(crawl).await;
                }
            }
            Self::Undelete(back) => {
                if let Some(crawl) = nth(harness, "vanished > undeleted", back).await {
                    harness.undelete(crawl).await;
                }
            }
            Self::Change(change) => change.happen(&harness.api),
            Self::Crawl => {
                harness.crawl().await;
            }
            Self::ForetoldCrawl => {
                harness.foretold_crawl().await;
            }
            Self::CrawlWhile(n, Change::Recreate(id)) => {
                let of =
                    harness.api.truth().get(IDS[id]).and_then(|name| TYPES.iter().position(|of| of == name));
                harness.during_request(n, move |api| Change::Dissolve(id).happen(api));
                if let Some(of) = of {
                    harness.during_request(n + 1, move |api| Change::Create(id, of).happen(api));
                }
                harness.crawl().await;
            }
            Self::CrawlWhile(n, change) => {
                harness.during_request(n, move |api| change.happen(api));
                harness.crawl().await;
            }
            Self::CrawlWithFault(n, fault, lasting) => {
                if lasting {
                    harness.fault_from_request(n, fault);
                } else {
                    harness.fault_at_request(n, fault);
                }
                harness.crawl().await;
            }
            Self::CrawlWithFaultyLists(fault) => {
                harness.api.script(At::List, fault);
                harness.crawl().await;
            }
            Self::CrawlWithFaultyAnswer(nth, fault, lasting) => {
                let asked =
                    harness.api.requests().iter().filter(|request| request.call == Call::Info).count();
                let nth = asked as u64 + nth;
                let at = if lasting { At::InfoRequests(nth..=u64::MAX) } else { At::InfoRequest(nth) };
                harness.api.script(at, fault);
                harness.crawl().await;
            }
            Self::Remember => harness.api.save_stale_copy(),
            Self::Kill(n) => {
                let held = harness.api.hold(At::Request(harness.request(n)));
                harness.crawl_killed_by(held.reached()).await;
            }
            Self::Cancel(n) => {
                let held = harness.api.hold(At::Request(harness.request(n)));
                let stop = CancellationToken::new();
                let crawl = harness.crawl_until_cancelled(&stop);
                let cancel = async {
                    held.reached().await;
                    stop.cancel();
                    std::future::pending::<()>().await;
                };
                tokio::select! {
                    _ = crawl => (),
                    () = cancel => (),
                }
            }
        }
    }
}

/// Runs histories, each with a harness of its own, and then checks what must hold at the end.
async fn after_any_history(
    engine: Engine,
    configured: &'static [&'static str],
    cursor: Cursor,
    about: About,
    end: impl AsyncFn(&Harness) + Send + 'static,
) {
    let cases = u32::try_from(campaign::number("PROPTEST_CASES", 24, 2)).unwrap();
    let config = Config {
        cases,
        rng_seed: RngSeed::Fixed(20_260_301),
        failure_persistence: None,
        max_shrink_iters: 300,
        ..Config::default()
    };
    let live_through = move |(history, newest_first): (Vec<Step>, bool)| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let order = if newest_first { Order::NewestFirst } else { Order::OldestFirst };
            let listing = Listing { order, cursor };
            let mut harness =
                Harness::on(engine).await.with_api(Settings { listing, ..Settings::default() }).await;
            harness.page_limit = 2;
            harness.guard.confirm = about.confirm;
            harness.group_types = group_types(configured);
            for step in history {
                Box::pin(step.happen(&mut harness)).await;
                harness.clear_scripts();
            }
            settle_all(&mut harness).await;
            end(&harness).await;
        });
        Ok(())
    };
    // The runner is not async and the cases have runtimes of their own, so it gets a thread that may block.
    let outcome = tokio::task::spawn_blocking(move || {
        let history = prop::collection::vec(step(about), 0..30);
        TestRunner::new(config)
            .run(&(history, any::<bool>()), live_through)
            .map_err(|error| error.to_string())
    });
    outcome.await.unwrap().unwrap_or_else(|failure| panic!("{failure}"));
}

/// The last crawl but so many of which this is so.
async fn nth(harness: &Harness, condition: &str, back: usize) -> Option<CrawlId> {
    let sql = format!("SELECT crawl_id FROM crawls WHERE {condition} ORDER BY crawl_id DESC");
    harness.lines(&sql).await.get(back).map(|id| CrawlId(id.parse().unwrap()))
}

/// Nothing is withheld any more, and nothing will be.
async fn settle_all(harness: &mut Harness) {
    harness.guard.review = false;
    for id in harness.lines("SELECT crawl_id FROM crawls WHERE withheld > 0 ORDER BY crawl_id").await {
        harness.approve(CrawlId(id.parse().unwrap())).await;
    }
}

async fn quiet_crawl(harness: &Harness) {
    assert_eq!(outcome(&harness.crawl().await), "complete");
}

async fn an_unchanged_crawl_changes_nothing(harness: &Harness) {
    harness.forbid_changes_to_groups().await;
    quiet_crawl(harness).await;
}

const ASKING: About = About { hiding: false, confirm: true };

/// Quiet crawls until the table is the truth. Most histories need one, or two if groups of a type without a pass are left
/// over. A group that crawls found standing again and again is asked about ever more seldom, and so its end may be noticed late.
async fn quiet_crawls_until(harness: &Harness, is_truth: impl AsyncFn(&Harness) -> bool) {
    for _ in 0..26 {
        quiet_crawl(harness).await;
        if is_truth(harness).await && harness.value("SELECT missing_count FROM app_status").await == "0" {
            return;
        }
    }
    panic!("{:?} {:?}", harness.table().await, harness.api.truth());
}

async fn is_the_truth(harness: &Harness) -> bool {
    harness.live().await == harness.api.truth()
}

async fn the_table_becomes_the_truth_and_stays(harness: &Harness) {
    quiet_crawls_until(harness, is_the_truth).await;
    quiet_crawl(harness).await;
    harness.assert_table_matches_api().await;
    an_unchanged_crawl_changes_nothing(harness).await;
}

async fn after_any_history_quiet_crawls_make_the_table_the_truth(harness: Harness) {
    after_any_history(harness.engine, &TYPES, Cursor::Key, ASKING, the_table_becomes_the_truth_and_stays)
        .await;
}

async fn after_any_history_of_lists_that_skip_groups_quiet_crawls_make_the_table_the_truth(harness: Harness) {
    after_any_history(
        harness.engine,
        &TYPES,
        Cursor::Position,
        ASKING,
        the_table_becomes_the_truth_and_stays,
    )
    .await;
}

async fn after_any_history_groups_of_a_type_that_is_not_configured_are_known_too(harness: Harness) {
    const CONFIGURED: [&str; 2] = ["Public", "Private"];
    after_any_history(harness.engine, &CONFIGURED, Cursor::Key, ASKING, async |harness| {
        quiet_crawls_until(harness, is_the_truth).await;
        quiet_crawl(harness).await;
        harness.assert_table_matches_api().await;
        an_unchanged_crawl_changes_nothing(harness).await;
    })
    .await;
}

async fn after_any_history_with_hidden_groups_quiet_crawls_make_the_table_the_truth(harness: Harness) {
    let about = About { hiding: true, confirm: true };
    after_any_history(harness.engine, &TYPES, Cursor::Position, about, async |harness| {
        quiet_crawl(harness).await;
        harness.api.show_all();
        the_table_becomes_the_truth_and_stays(harness).await;
    })
    .await;
}

/// After every crawl [`Harness::assert_invariants`] looks whether a group was deleted that stood all the time.
async fn after_any_history_without_questions_every_standing_group_is_live(harness: Harness) {
    let about = About { hiding: false, confirm: false };
    after_any_history(harness.engine, &TYPES, Cursor::Key, about, async |harness| {
        quiet_crawl(harness).await;
        quiet_crawl(harness).await;
        harness.assert_table_matches_api().await;
        an_unchanged_crawl_changes_nothing(harness).await;
    })
    .await;
}

/// The same, in one life: a table that many crawls have left their traces in.
#[expect(clippy::print_stdout, reason = "a failure has to be repeatable")]
async fn one_long_history_ends_with_the_truth(mut harness: Harness) {
    let steps = campaign::number("HISTORY_STEPS", 1000, 50);
    let seed = campaign::number("HISTORY_SEED", 20_260_301, 20_260_301);
    harness.group_types = group_types(&TYPES);
    harness.page_limit = 2;
    let config = Config { rng_seed: RngSeed::Fixed(seed), failure_persistence: None, ..Config::default() };
    let (mut runner, step) = (TestRunner::new(config), step(About { hiding: true, confirm: true }));
    for number in 0..steps {
        let step = step.new_tree(&mut runner).unwrap().current();
        println!("seed {seed}, step {number}: {step:?}");
        Box::pin(step.happen(&mut harness)).await;
        harness.clear_scripts();
    }
    settle_all(&mut harness).await;
    harness.api.show_all();
    the_table_becomes_the_truth_and_stays(&harness).await;
}
