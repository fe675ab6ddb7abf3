//! Reads the live groups of an app, for the roll.

mod postgres;
mod sqlite;

use crate::model::TypeId;
use crate::roll::Mark;
use crate::store::app::AppId;
use crate::store::engine::{Engine, Store, StoreError, TransactionRetry, WithAction as _};

impl Store {
    /// Calls `each` once with every live group of an app. The order is undefined, because
    /// PostgreSQL needs longer to sort ten million ids than to read them. `begin` creates the
    /// collection that `each` fills. If a connection breaks, all groups are read again into a new
    /// collection.
    pub async fn gather_live<G>(
        &self,
        app: AppId,
        begin: impl Fn() -> G,
        mut each: impl FnMut(&mut G, TypeId, &str, Mark),
    ) -> Result<G, StoreError> {
        let mut retry = TransactionRetry::within(self.engine.limits().statement);
        loop {
            let mut gathered = begin();
            let each = |type_id, id: &str, mark| each(&mut gathered, type_id, id, mark);
            let read = match &self.engine {
                Engine::Sqlite(file) => return sqlite::live_groups(file, app, each).await.map(|()| gathered),
                Engine::Postgres(server) => match postgres::live_groups(server, app, each).await {
                    Err(error) if retry.pause_before_retry(&error).await => continue,
                    read => read,
                },
            };
            return read.map(|()| gathered).with_action("read the live groups");
        }
    }
}
