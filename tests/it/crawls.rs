use crate::support::World;

#[tokio::test]
async fn smoke() {
    let world = World::new().await;
    world.api.create_many("Public", 10);
    world.api.create_many("Private", 5);
    println!("{:#?}", world.crawl().await);
    world.api.dissolve_some(3);
    world.api.create_many("Public", 2);
    println!("{:#?}", world.crawl().await);
    println!("{:#?}", world.crawl().await);
    println!("{}", serde_json::to_string_pretty(&world.store.app_statuses().await.unwrap()).unwrap());
    let out = std::process::Command::new("sqlite3").arg("-box").arg(world.database()).arg("select * from groups; select * from group_events; select * from crawls; select * from type_counts; select * from app_counts; select * from daily_counts; select * from app_status; select * from type_status").output().unwrap();
    println!("{}", String::from_utf8_lossy(&out.stdout));
}
