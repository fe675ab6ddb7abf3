//! Whatever happens at the API and to the crawler: in the end the table is the truth, and nothing that stood was deleted.
//!
//! The model is the simulated app itself, the invariants of [`World::assert_invariants`] hold after every crawl, and
//! the histories are the same in every run. `PROPTEST_CASES=2000 cargo test --test it properties` looks further;
//! `HISTORY_STEPS=20000 HISTORY_SEED=7 cargo test --test it one_long_history` lives longer, and differently.

use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::{Config, RngSeed, TestRunner};
use tim_group_sync::model::CrawlId;
use tim_group_sync::simulator::{At, Cursor, Fault, Listing, Order, Settings, SimulatedApp};
use tokio_util::sync::CancellationToken;

use crate::support::{Engine, World, group_types, on_every_engine, outcome};

on_every_engine! {
    after_any_history_quiet_crawls_make_the_table_the_truth,
    after_any_history_groups_of_a_type_that_is_not_configured_are_known_too,
    no_history_deletes_a_group_that_stands_and_can_be_asked_about,
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

/// Two days back, or forward beyond the life of a signature.
fn hours() -> impl Strategy<Value = i32> {
    -48..96i32
}

fn step(hiding: bool) -> impl Strategy<Value = Step> {
    let request = 1..9u64;
    prop_oneof![
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
    async fn happen(self, world: &mut World) {
        match self {
            Self::CrawlTwice => world.crawl_by_two_replicas().await,
            Self::SetClock(hours) => world.set_clock_by(hours),
            Self::SetClockWhile(n, hours) => {
                world.set_clock_during_request(n, hours);
                world.crawl().await;
            }
            Self::Review(review) => world.guard.review = review,
            Self::Approve(back) => {
                if let Some(crawl) = nth(world, "withheld > 0", back).await {
                    world.approve(crawl).await;
                }
            }
            Self::Undelete(back) => {
                if let Some(crawl) = nth(world, "vanished > undeleted", back).await {
                    world.undelete(crawl).await;
                }
            }
            Self::Change(change) => change.happen(&world.api),
            Self::Crawl => {
                world.crawl().await;
            }
            Self::ForetoldCrawl => {
                world.foretold_crawl().await;
            }
            Self::CrawlWhile(n, Change::Recreate(id)) => {
                let of =
                    world.api.truth().get(IDS[id]).and_then(|name| TYPES.iter().position(|of| of == name));
                world.during_request(n, move |api| Change::Dissolve(id).happen(api));
                if let Some(of) = of {
                    world.during_request(n + 1, move |api| Change::Create(id, of).happen(api));
                }
                world.crawl().await;
            }
            Self::CrawlWhile(n, change) => {
                world.during_request(n, move |api| change.happen(api));
                world.crawl().await;
            }
            Self::CrawlWithFault(n, fault, lasting) => {
                if lasting {
                    world.fault_from_request(n, fault);
                } else {
                    world.fault_at_request(n, fault);
                }
                world.crawl().await;
            }
            Self::Kill(n) => {
                let held = world.api.hold(At::Request(world.request(n)));
                world.crawl_killed_by(held.reached()).await;
            }
            Self::Cancel(n) => {
                let held = world.api.hold(At::Request(world.request(n)));
                let stop = CancellationToken::new();
                let crawl = world.crawl_unless(&stop);
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

/// Runs histories, each in a world of its own, and then what must hold at the end. Groups are asked about before they are
/// deleted if the lists may skip standing ones.
async fn after_any_history(
    engine: Engine,
    configured: &'static [&'static str],
    cursor: Cursor,
    end: impl AsyncFn(&World) + Send + 'static,
) {
    let cases = std::env::var("PROPTEST_CASES").map_or(24, |cases| cases.parse().unwrap());
    let config = Config {
        cases,
        rng_seed: RngSeed::Fixed(20_260_301),
        failure_persistence: None,
        max_shrink_iters: 300,
        ..Config::default()
    };
    let skipping = cursor == Cursor::Position;
    let live_through = move |(history, newest_first): (Vec<Step>, bool)| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let order = if newest_first { Order::NewestFirst } else { Order::OldestFirst };
            let listing = Listing { order, cursor };
            let mut world =
                World::on(engine).await.with_api(Settings { listing, ..Settings::default() }).await;
            world.page_limit = 2;
            world.guard.confirm = skipping;
            world.group_types = group_types(configured);
            for step in history {
                step.happen(&mut world).await;
                world.call_off_what_did_not_happen();
            }
            settle_all(&mut world).await;
            end(&world).await;
        });
        Ok(())
    };
    // The runner is not async and the cases have runtimes of their own, so it gets a thread that may block.
    let outcome = tokio::task::spawn_blocking(move || {
        let history = prop::collection::vec(step(skipping), 0..30);
        TestRunner::new(config)
            .run(&(history, any::<bool>()), live_through)
            .map_err(|error| error.to_string())
    });
    outcome.await.unwrap().unwrap_or_else(|failure| panic!("{failure}"));
}

/// The last crawl but so many of which this is so.
async fn nth(world: &World, condition: &str, back: usize) -> Option<CrawlId> {
    let sql = format!("SELECT crawl_id FROM crawls WHERE {condition} ORDER BY crawl_id DESC");
    world.lines(&sql).await.get(back).map(|id| CrawlId(id.parse().unwrap()))
}

/// Nothing is withheld any more, and nothing will be.
async fn settle_all(world: &mut World) {
    world.guard.review = false;
    for id in world.lines("SELECT crawl_id FROM crawls WHERE withheld > 0 ORDER BY crawl_id").await {
        world.approve(CrawlId(id.parse().unwrap())).await;
    }
}

async fn quiet_crawl(world: &World) {
    assert_eq!(outcome(&world.crawl().await), "complete");
}

async fn an_unchanged_crawl_changes_nothing(world: &World) {
    world.forbid_changes_to_groups().await;
    quiet_crawl(world).await;
}

async fn after_any_history_quiet_crawls_make_the_table_the_truth(world: World) {
    after_any_history(world.engine, &TYPES, Cursor::Key, async |world| {
        quiet_crawl(world).await;
        // One crawl is enough, but for groups whose type was never told: nothing but two absences speaks for them.
        let truth = world.api.truth();
        let mut live = world.live().await;
        live.retain(|id, group_type| truth.contains_key(id) || group_type != "NULL");
        assert_eq!(live, truth);
        quiet_crawl(world).await;
        world.assert_table_is_the_truth().await;
        an_unchanged_crawl_changes_nothing(world).await;
    })
    .await;
}

async fn after_any_history_groups_of_a_type_that_is_not_configured_are_known_too(world: World) {
    const CONFIGURED: [&str; 2] = ["Public", "Private"];
    after_any_history(world.engine, &CONFIGURED, Cursor::Key, async |world| {
        quiet_crawl(world).await;
        quiet_crawl(world).await;
        let truth = world.api.truth();
        let live = world.live().await;
        assert!(live.keys().eq(truth.keys()), "{live:?} {truth:?}");
        for (id, group_type) in truth {
            assert!(live[&id] == group_type || !CONFIGURED.contains(&group_type.as_str()), "{id}: {live:?}");
        }
        an_unchanged_crawl_changes_nothing(world).await;
    })
    .await;
}

/// After every crawl [`World::assert_invariants`] looks whether a group was deleted that stood all the time.
async fn no_history_deletes_a_group_that_stands_and_can_be_asked_about(world: World) {
    after_any_history(world.engine, &TYPES, Cursor::Position, async |world| {
        quiet_crawl(world).await;
        world.api.show_all();
        quiet_crawl(world).await;
        let truth = world.api.truth();
        let mut live = world.live().await;
        let held = world.lines("SELECT group_id FROM live_groups WHERE held").await;
        live.retain(|id, group_type| truth.contains_key(id) || (group_type != "NULL" && !held.contains(id)));
        assert_eq!(live, truth);
    })
    .await;
}

/// The same, in one life: a table that many crawls have left their traces in. With a key as its cursor no list skips a
/// standing group.
#[expect(clippy::print_stdout, reason = "a failure has to be repeatable")]
async fn one_long_history_ends_with_the_truth(mut world: World) {
    let number =
        |name: &str, otherwise: u64| std::env::var(name).map_or(otherwise, |text| text.parse().unwrap());
    let (steps, seed) = (number("HISTORY_STEPS", 1000), number("HISTORY_SEED", 20_260_301));
    world.group_types = group_types(&TYPES);
    world.page_limit = 2;
    let config = Config { rng_seed: RngSeed::Fixed(seed), failure_persistence: None, ..Config::default() };
    let (mut runner, step) = (TestRunner::new(config), step(false));
    for number in 0..steps {
        let step = step.new_tree(&mut runner).unwrap().current();
        println!("seed {seed}, step {number}: {step:?}");
        step.happen(&mut world).await;
        world.call_off_what_did_not_happen();
    }
    settle_all(&mut world).await;
    quiet_crawl(&world).await;
    quiet_crawl(&world).await;
    world.assert_table_is_the_truth().await;
    an_unchanged_crawl_changes_nothing(&world).await;
}
