//! How projections come to their lanes: loaded from the tables, admitted by the log, joined where they stand at the same place.

use std::mem;
use std::time::Instant;

use modelfaucet_schema::ids::Position;
use modelfaucet_schema::log::LogReader;

use super::Run;
use crate::feed::Feed;
use crate::fold::{Folder, Halt};
use crate::runtime::lane::{Lane, Shown};
use crate::runtime::shard::{Ended, ShardTask};
use crate::series::{Series, figure};
use crate::store::{Saved, Store};

impl<'a> Run<'a> {
    pub(in crate::runtime) async fn load(
        task: &'a mut ShardTask,
        reader: LogReader,
        mut store: Store,
    ) -> Result<Self, Ended> {
        let shard = task.shard;
        let (log_id, _) = reader.head(shard).await?;
        let known = (task.projector.projections)();
        let following = store.following(shard).await?;
        let saved = store.load(shard, log_id, &known).await?;
        // Asked after the checkpoints were read, so it cannot be behind them unless the log has lost events.
        let (_, head) = reader.head(shard).await?;
        task.halted.clear();
        let mut run = Self {
            task,
            reader,
            store: Some(store),
            lanes: Vec::new(),
            stopped: Vec::new(),
            pending: None,
            following,
            reviewed: Instant::now(),
            head: head.position,
            paced: None,
        };
        for saved in saved {
            run.admit(saved, head.position).await?;
        }
        run.join_lanes();
        Ok(run)
    }

    /// What is loaded next shows itself anew. A version that has another state then, or is gone, must not be shown as behind for ever
    /// under its old one.
    pub(in crate::runtime) fn silence(&self) {
        for Shown { series, .. } in self.lanes.iter().flat_map(|lane| &lane.series).chain(&self.stopped) {
            series.lag_events.set(0.0);
            series.lag_seconds.set(0.0);
            series.dead_letters.set(0.0);
        }
    }

    /// Gives a loaded projection a lane, or halts it if the log is not the one that it has read.
    async fn admit(&mut self, saved: Saved, head: Position) -> Result<(), Ended> {
        let shard = self.task.shard;
        let (name, version) = (saved.unit.projection.name(), saved.unit.projection.version());
        let series = Series::new(name, version, &saved.state, shard);
        series.position.set(figure(saved.at.position.0));
        series.lag_events.set(figure(head.0 - saved.at.position.0));
        series.lag_seconds.set(0.0);
        series.dead_letters.set(figure(saved.letters));
        let shown = Shown { name, version, at: saved.at.position, series };
        if let Some(reason) = saved.halted {
            self.stopped.push(shown);
            self.task.halted.push(Halt { name, version, reason });
            return Ok(());
        }
        let log_id = match self.reader.admit(shard, saved.log_id, saved.at).await? {
            Ok(log_id) => log_id,
            Err(stranger) => {
                self.stopped.push(shown);
                let reason = format!("{stranger}; rebuild it");
                return self.halt(vec![Halt { name, version, reason }]).await;
            }
        };
        if saved.log_id != log_id
            && let Some(store) = &self.store
        {
            store.adopt(shard, log_id, name, version, saved.at).await?;
        }
        let folder = Folder::new(shard, log_id, saved.at, vec![saved.unit]);
        let near = self.task.projector.near.as_ref().filter(|(of, _)| *of == shard).map(|(_, near)| near.clone());
        let feed = Feed::new(self.reader.clone(), shard, saved.at, near);
        self.lanes.push(Lane { folder, feed, series: vec![shown], broken: None });
        Ok(())
    }

    /// Makes one lane of lanes that stand at the same place.
    pub(super) fn join_lanes(&mut self) {
        let apart = |lane: &Lane, until: Position| lane.folder.at.position < until || lane.broken.is_some();
        let until = self.task.isolated_until;
        let mut lanes: Vec<Lane> = Vec::with_capacity(self.lanes.len());
        for mut lane in mem::take(&mut self.lanes) {
            let same = lanes
                .iter_mut()
                .find(|known| known.folder.at == lane.folder.at && !apart(known, until) && !apart(&lane, until));
            match same {
                Some(known) => {
                    known.folder.units.append(&mut lane.folder.units);
                    known.series.append(&mut lane.series);
                }
                None => lanes.push(lane),
            }
        }
        self.lanes = lanes;
    }
}
