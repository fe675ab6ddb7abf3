//! Reads the live groups of an app, for the roll.

mod postgres;
mod sqlite;
mod totals;

use crate::model::TypeId;
use crate::roll::Mark;
use crate::store::app::AppId;
use crate::store::engine::{Engine, Store, StoreError, TransactionRetry, WithAction as _};

impl Store {
    /// Passes every live group of an app once to `add`, which adds it to a collection. Returns the
    /// collection. The order is undefined, because PostgreSQL needs longer to sort ten million ids
    /// than to read them. `new_collection` creates the collection. It is called again if a
    /// connection breaks, because then all groups are read again.
    pub async fn gather_live<G>(
        &self,
        app: AppId,
        new_collection: impl Fn() -> G,
        mut add: impl FnMut(&mut G, TypeId, &str, Mark),
    ) -> Result<G, StoreError> {
        let mut retry = TransactionRetry::within(self.engine.limits().statement);
        loop {
            let mut gathered = new_collection();
            let for_each = |type_id, id: &str, mark| add(&mut gathered, type_id, id, mark);
            let result = match &self.engine {
                Engine::Sqlite(file) => {
                    return sqlite::live_groups(file, app, for_each).await.map(|()| gathered);
                }
                Engine::Postgres(server) => match postgres::live_groups(server, app, for_each).await {
                    Err(error) if retry.pause_before_retry(&error).await => continue,
                    result => result,
                },
            };
            return result.map(|()| gathered).with_action("read the live groups");
        }
    }
}
